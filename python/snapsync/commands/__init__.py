"""The verbs of the command line: `app` declares them, and each module does one verb's work."""
