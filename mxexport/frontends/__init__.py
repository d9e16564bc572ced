"""Models quantized with other libraries, read into mxexport models. Nothing is imported before it is needed."""
