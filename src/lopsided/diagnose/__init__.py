"""What a finished run looks like."""
