"""Files: whole or not there, checked before they are believed, and known again by their hashes."""
