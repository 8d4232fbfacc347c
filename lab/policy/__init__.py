"""NetworkPolicy enforced in the kernel of every node of a lab, in kube-router's or Calico's form."""
