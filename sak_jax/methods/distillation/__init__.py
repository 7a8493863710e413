"""What methods that distil may share: standardised teacher features, teacher dropping, losses per token and image."""
