"""The steps of `mxexport.exporting.exporter.export`, one file each, in order.

inputs.py     example inputs, open dimensions
guard.py      the model is left as it was
trace.py      torch -> onnx-ir, our operators as bare nodes
modes.py      torch's own layers by ways that a graph can hold
outputs.py    outputs under the keys of what forward returns
weights.py    float weights under their own names
bypassed.py   layers whose weight is read past them
half.py       half precision carried in float32, rounded where torch rounds
naming.py     names and doc strings from the module path
figures.py    what one quantizer costs and loses
report.py     what the user gets to read
"""
