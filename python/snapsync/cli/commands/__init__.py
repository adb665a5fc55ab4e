"""The verbs, a file each: what it takes, does, and says. Every module here is the verb of its name."""
