"""Networks and designs against the model: frames in, words out, unit by unit."""
