"""Built-in specimens, and how the command line finds one."""
