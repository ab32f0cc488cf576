"""torchstone: why a network trains, why it generalises, where its error comes from, what to change."""
