"""One module a data set: its class, its keys, how it is prepared."""
