"""The lab's node service and controllers in one process: what kubelet, scheduler and controller-manager do elsewhere."""
