"""The chain goes from images or weights to a proven int8 model, one room a stage.

In the order of the chain:

* ``importing``: somebody else's weights become a checkpoint or an ONNX file of ours.
* ``training``: images become a checkpoint.
* ``exporting``: a checkpoint becomes ONNX, its BatchNorms are folded, its precision is converted.
* ``quantizing``: a folded model becomes an int8 model, and is proven on the real kernels.
* ``evaluating``: accuracy on labelled images, and the classes of single ones.
* ``benchmarking``: latency, throughput, cold start and memory.
* ``inspecting``: what a file holds.
* ``reporting``: what is known about a run, as documents.

Below them are ``artifacts``, files that know where they come from, and ``runtime``, what runs a
model and how close two answers are. ``chain`` puts the stages in order.
"""
