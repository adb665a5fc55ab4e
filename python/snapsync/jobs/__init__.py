"""The jobs of the configuration: what they are, how they run, how old standbys are. Nothing here prints."""
