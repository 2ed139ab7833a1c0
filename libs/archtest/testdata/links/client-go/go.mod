module k8s.io/client-go
