"""How fast it is: what is timed, beside the published implementation and with single optimisations switched off."""
