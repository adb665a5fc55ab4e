"""The page of `snapsync report`: figures out of kept manifests, and how they are laid out."""
