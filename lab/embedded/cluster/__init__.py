"""The lab's node service and controllers in one process.

What kubelet, scheduler and controller-manager do elsewhere.
"""
