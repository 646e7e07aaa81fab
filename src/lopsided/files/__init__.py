"""Files: written atomically, checked before they are used, and recognized by their hashes."""
