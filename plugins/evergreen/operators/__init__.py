"""An operator a stage: it takes the partition from its run, calls a function of include/.

Returns a reference.
"""
