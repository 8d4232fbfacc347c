module kubereach.test/own

go 1.24.0
