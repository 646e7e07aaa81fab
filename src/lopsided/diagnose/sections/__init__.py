"""What a diagnosis consists of, one file per section."""
