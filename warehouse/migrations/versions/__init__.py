"""One module a revision; a revision is never changed once it is released."""
