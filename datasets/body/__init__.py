"""The parametric body: file format, forward kinematics, skinning, and the free CC0 body."""
