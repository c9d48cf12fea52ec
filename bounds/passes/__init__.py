"""The passes: functions of intervals and relaxations that know no method and hold no state of their own.

`ibp` and `zonotope` go forward, `crown` goes backward.  `patches` takes rows through operators as windows of an image,
`early_stop` lets go of rows whose sign is decided.
"""
