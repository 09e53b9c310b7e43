"""Studies of one use case on its own partitions.

What the gate's promotions and the alarms' rates are worth.
"""
