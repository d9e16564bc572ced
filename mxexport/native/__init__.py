"""C sources that are compiled on the machine they run on, and how: operators for onnxruntime, and what they share with
the fake-quantization kernel of `mxexport.quant`."""
