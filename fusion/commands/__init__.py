"""One file a command. A command is a function with plain arguments; what is heavy is imported inside it."""
