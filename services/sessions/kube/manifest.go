package kube

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions/launch"
	"agentyard.dev/services/sessions/runner"
)

// Labels by which the yard finds its own. A profile cannot set them: what it sets has the prefix userPrefix.
const (
	labelSession     = "agentyard.dev/session"
	labelTenant      = "agentyard.dev/tenant"
	labelIncarnation = "agentyard.dev/incarnation"
	labelProfile     = "agentyard.dev/profile"
	labelPod         = api.PodLabel         // the id with which the pod asks to be bound
	labelPool        = "agentyard.dev/pool" // of a pod that was made for a pool: whether it waits for a session
	labelKeep        = "agentyard.dev/keep" // of a volume that its session does not take along
	labelInstance    = "app.kubernetes.io/instance"
	labelManagedBy   = "app.kubernetes.io/managed-by"
	labelName        = "app.kubernetes.io/name"
	managedBy        = "agentyard-sessions"
	podName          = "agentyard-session"
	userPrefix       = "user.agentyard.dev/"
	shapeNote        = "agentyard.dev/shape" // an annotation, likewise: of which kind it is
)

const (
	// userID is the user of everything in a session's pod. It is no host's user.
	userID = 999
	// sessionDir holds workspace/, home/ and tmp/: the session's volume, if it has one.
	sessionDir = "/session"
	caDir      = "/etc/agentyard-ca"
	runnerDir  = "/agentyard" // of the runner in an image of somebody else
	runnerPath = "/runner"    // in our own image
	// container is the name of the container with runner and agent.
	container = "agent"
	// stopSeconds is for who deletes a pod without saying how long it may take.
	stopSeconds = 30
)

// generic is what a pod is made from before anybody knows for which session.
type generic struct {
	id          string // by which it asks to be bound
	credentials []byte // with which
	pod         launch.Pod
	limits      api.Resources
	tenant      string // whose pool it is for, if it is for one
}

// manifest returns a generic pod.
func (r *Runtime) manifest(g generic) *corev1.Pod {
	image, command := g.pod.Image, []string{runnerDir + runnerPath, runner.BindVerb}
	own := image == "" || image == r.cfg.Image
	if own {
		image, command = r.cfg.Image, []string{runnerPath, runner.BindVerb}
	}
	no, yes := false, true
	user := int64(userID)
	stop := int64(stopSeconds)
	fsChange := corev1.FSGroupChangeOnRootMismatch
	readOnly := !g.pod.WritableRoot
	secure := &corev1.SecurityContext{
		AllowPrivilegeEscalation: &no, Privileged: &no, ReadOnlyRootFilesystem: &readOnly,
		Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
	}
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: r.cfg.Namespace, Name: g.id, Labels: r.labels(g), Annotations: prefixed(g.pod.Annotations)},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: &stop,
			ServiceAccountName: r.cfg.ServiceAccount, AutomountServiceAccountToken: &no, EnableServiceLinks: &no,
			SecurityContext: &corev1.PodSecurityContext{
				RunAsNonRoot: &yes, RunAsUser: &user, RunAsGroup: &user, FSGroup: &user, FSGroupChangePolicy: &fsChange,
				SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			NodeSelector: g.pod.NodeSelector,
			Tolerations:  r.tolerations(g.pod.Tolerations),
			Containers: []corev1.Container{{
				Name: container, Image: image, ImagePullPolicy: corev1.PullPolicy(r.cfg.PullPolicy), Command: command, WorkingDir: "/",
				Env: r.environment(g), SecurityContext: secure, Resources: r.resources(g),
				Ports:                    []corev1.ContainerPort{{Name: "agentapi", ContainerPort: launch.PodPort}},
				TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError, // the last lines come with the news
				VolumeMounts:             []corev1.VolumeMount{{Name: "session", MountPath: sessionDir}, {Name: "tmp", MountPath: "/tmp"}},
			}},
			Volumes: []corev1.Volume{
				{Name: "session", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
				{Name: "tmp", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			},
		},
	}
	if g.pod.RuntimeClass != "" {
		p.Spec.RuntimeClassName = &g.pod.RuntimeClass
	}
	for _, name := range g.pod.PullSecrets {
		p.Spec.ImagePullSecrets = append(p.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: name})
	}
	if !own {
		r.install(&p.Spec, secure)
	}
	if r.cfg.CAConfigMap != "" {
		r.trust(&p.Spec)
	}
	r.surround(p, g, secure)
	return p
}

// install puts the runner into a pod whose image does not have it.
func (r *Runtime) install(spec *corev1.PodSpec, secure *corev1.SecurityContext) {
	secure = secure.DeepCopy()
	*secure.ReadOnlyRootFilesystem = true
	mount := corev1.VolumeMount{Name: "runner", MountPath: runnerDir}
	small := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("64Mi")}
	spec.InitContainers = []corev1.Container{{
		Name: "runner", Image: r.cfg.Image, ImagePullPolicy: corev1.PullPolicy(r.cfg.PullPolicy),
		Command:         []string{runnerPath, runner.InstallVerb, runnerDir + runnerPath},
		SecurityContext: secure, VolumeMounts: []corev1.VolumeMount{mount},
		Resources:                corev1.ResourceRequirements{Requests: small, Limits: small},
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
	}}
	mount.ReadOnly = true
	spec.Containers[0].VolumeMounts = append(spec.Containers[0].VolumeMounts, mount)
	spec.Volumes = append(spec.Volumes, corev1.Volume{Name: "runner", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
}

// trust mounts the certificates of authorities that the runner trusts besides those of its image. A ConfigMap that is not there keeps the pod from starting,
// and says so.
func (r *Runtime) trust(spec *corev1.PodSpec) {
	agent := &spec.Containers[0]
	agent.Env = append(agent.Env, corev1.EnvVar{Name: "SSL_CERT_DIR", Value: caDir + ":/etc/ssl/certs"})
	agent.VolumeMounts = append(agent.VolumeMounts, corev1.VolumeMount{Name: "ca", MountPath: caDir, ReadOnly: true})
	spec.Volumes = append(spec.Volumes, corev1.Volume{Name: "ca", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
		LocalObjectReference: corev1.LocalObjectReference{Name: r.cfg.CAConfigMap}, Items: []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
	}}})
}

// assign makes a generic pod the pod of one incarnation, before it is created: named after it, with its volume.
func assign(p *corev1.Pod, l launch.Launch) {
	p.Name = instanceName(l.Session, l.Incarnation)
	p.Labels[labelSession], p.Labels[labelTenant], p.Labels[labelIncarnation] = l.Session, l.Tenant, strconv.Itoa(l.Incarnation)
	for k, v := range prefixed(l.Pod.SessionLabels) {
		if p.Annotations == nil {
			p.Annotations = map[string]string{}
		}
		p.Annotations[k] = v
	}
	if l.Pod.Collector {
		p.Annotations[targetsNote] = targetsOf(l.Session)
	}
	if l.Pod.Volume != nil {
		p.Spec.Volumes[0].VolumeSource = corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: l.Session},
		}
	}
}

// instanceName is the name of the pod of one incarnation.
func instanceName(session string, incarnation int) string {
	return session + "-" + strconv.Itoa(incarnation)
}

func (r *Runtime) labels(g generic) map[string]string {
	labels := prefixed(g.pod.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, map[string]string{
		labelName: podName, labelManagedBy: managedBy, labelInstance: r.cfg.Instance, labelPod: g.id,
	})
	if g.pod.Profile != "" {
		labels[labelProfile] = g.pod.Profile
	}
	return labels
}

// prefixed returns what a user set, under the user's prefix. A name that Kubernetes would refuse is left out; a profile has none.
func prefixed(set map[string]string) map[string]string {
	var out map[string]string
	for k, v := range set {
		name := userPrefix + strings.ReplaceAll(k, "/", ".")
		if len(validation.IsQualifiedName(name)) > 0 {
			continue
		}
		if out == nil {
			out = map[string]string{}
		}
		out[name] = v
	}
	return out
}

// environment is what the runner knows until it is bound. The runner forgets it, and no process may read another's that is not dumpable.
func (r *Runtime) environment(g generic) []corev1.EnvVar {
	field := func(path string) *corev1.EnvVarSource {
		return &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}
	}
	return []corev1.EnvVar{
		{Name: runner.EnvBusURL, Value: r.deps.BusURL},
		{Name: runner.EnvCredentials, Value: string(g.credentials)},
		{Name: runner.EnvID, Value: g.id},
		{Name: runner.EnvPod, ValueFrom: field("metadata.name")},
		{Name: runner.EnvUID, ValueFrom: field("metadata.uid")},
		{Name: runner.EnvIP, ValueFrom: field("status.podIP")},
	}
}

// resources are the profile's, or else the configuration's. What is requested is never more than the limit.
func (r *Runtime) resources(g generic) corev1.ResourceRequirements {
	limits, requests := corev1.ResourceList{}, corev1.ResourceList{}
	cpus := first(g.limits.CPUs, r.cfg.Limits.CPUs)
	memory := first(g.limits.MemoryBytes, r.cfg.Limits.MemoryBytes)
	wantCPUs := first(g.pod.Requests.CPUs, r.cfg.Requests.CPUs)
	wantMemory := first(g.pod.Requests.MemoryBytes, r.cfg.Requests.MemoryBytes)
	if cpus > 0 {
		limits[corev1.ResourceCPU] = millis(cpus)
		wantCPUs = min(wantCPUs, cpus)
	}
	if memory > 0 {
		limits[corev1.ResourceMemory] = *resource.NewQuantity(memory, resource.BinarySI)
		wantMemory = min(wantMemory, memory)
	}
	if wantCPUs > 0 {
		requests[corev1.ResourceCPU] = millis(wantCPUs)
	}
	if wantMemory > 0 {
		requests[corev1.ResourceMemory] = *resource.NewQuantity(wantMemory, resource.BinarySI)
	}
	for name, n := range g.pod.Devices {
		q := *resource.NewQuantity(n, resource.DecimalSI)
		limits[corev1.ResourceName(name)], requests[corev1.ResourceName(name)] = q, q
	}
	return corev1.ResourceRequirements{Limits: limits, Requests: requests}
}

func millis(cpus float64) resource.Quantity {
	return *resource.NewMilliQuantity(int64(cpus*1000), resource.DecimalSI)
}

func first[T int64 | float64](values ...T) T {
	for _, v := range values {
		if v != 0 {
			return v
		}
	}
	return 0
}

// tolerations adds how long a pod stays where its node is silent.
func (r *Runtime) tolerations(of []api.Toleration) []corev1.Toleration {
	var out []corev1.Toleration
	for _, t := range of {
		out = append(out, corev1.Toleration{
			Key: t.Key, Operator: corev1.TolerationOperator(t.Operator), Value: t.Value, Effect: corev1.TaintEffect(t.Effect),
		})
	}
	seconds := int64(r.cfg.NodeLoss.Seconds())
	for _, taint := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		if slices.ContainsFunc(of, func(t api.Toleration) bool { return t.Key == taint }) {
			continue
		}
		out = append(out, corev1.Toleration{
			Key: taint, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds,
		})
	}
	return out
}
