"""Pictures and pages of a run, for people to look at."""
