"""The chain goes from images or weights to a proven int8 model, one room a stage.

In the order of the chain:

* ``importing``: somebody else's weights become a checkpoint or an ONNX file of ours.
* ``training``: images become a checkpoint.
* ``exporting``: a checkpoint becomes ONNX, its BatchNorms are folded, its precision is converted.
* ``quantizing``: a folded model becomes an int8 model, and is proven on the real kernels.
* ``evaluating``: accuracy on labelled images, and predictions for others.
* ``benchmarking``: latency, throughput, cold start and memory.
* ``deploying``: packages for programs without this project, which also answer over HTTP.
* ``reporting``: what is known about a run or a file, as documents.

Below them are ``artifacts``, files that know where they come from, and ``runtime``, what runs a
model and how close two answers are. ``chain`` puts the stages in order.
"""
