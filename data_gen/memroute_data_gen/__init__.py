"""Everything that makes conversations: the authored bank, the composer, the teacher, checks."""
