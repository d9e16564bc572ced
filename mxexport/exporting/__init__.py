"""The steps of `mxexport.exporter.export`, one file each.

inputs.py     example inputs, open dimensions
guard.py      the model is left as it was
trace.py      torch -> onnx-ir, our operators as bare nodes
naming.py     names and doc strings from the module path
figures.py    what one quantizer costs and loses
report.py     what the user gets to read
"""
