//go:build tools

// Package tools names the commands that this module pins; helm is for the tests of the chart (scripts/helm).
package tools

import (
	_ "github.com/coredns/coredns"
	_ "github.com/flannel-io/flannel"
	_ "helm.sh/helm/v3/cmd/helm"
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kube-controller-manager"
	_ "k8s.io/kubernetes/cmd/kube-proxy"
	_ "k8s.io/kubernetes/cmd/kube-scheduler"
	_ "k8s.io/kubernetes/cmd/kubelet"
)
