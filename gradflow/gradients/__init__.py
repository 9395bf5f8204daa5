"""Several gradients in one flow: `combine(loss -> backprop, bias -> backprop) + (near -> backprop) -> adamw()`.

The head of such a flow is an expression whose operands are gradients. `flow.py` evaluates it, `joints.py` runs stages that take gradients as inputs.
"""
