"""Training: settings, an engine that repeats exactly and resumes exactly, and the run folder that explains itself."""
