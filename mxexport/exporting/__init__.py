"""The steps of `mxexport.exporting.exporter.export`, one file each, in order.

inputs.py           example inputs, open dimensions
unchanged_model.py  the model is left as it was
computed.py         weights that a layer's own forward computes
trace.py            torch -> onnx-ir, our operators as bare nodes
while_tracing.py    torch's own layers by ways that a graph can hold
pairs.py            scale and elements as one node while torch works on the graph
torch_tables.py     torch's table of operators, read once
outputs.py          outputs under the keys of what forward returns
weights.py          float weights under their own names
half.py             half precision carried in float32, rounded where torch rounds
weight_scales.py    scales of weights as constants
bypassed.py         layers whose weight is read past them
naming.py           names and doc strings from the module path
report.py           what the user gets to read
"""
