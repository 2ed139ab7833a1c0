package kube

import (
	"context"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coreapply "k8s.io/client-go/applyconfigurations/core/v1"
	metaapply "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/client-go/tools/cache"

	"agentyard.dev/libs/api"
	"agentyard.dev/services/sessions"
	"agentyard.dev/services/sessions/launch"
)

// volume is what is known of a session's volume. It has the session's name, and no owner: it outlives pods.
type volume struct {
	sessions.Ref
	keep bool          // not ours to remove
	gone chan struct{} // closed when it is no more
}

// makeVolume makes the volume of l, or makes it as the profile now wants it, if it is there.
func (r *Runtime) makeVolume(ctx context.Context, l launch.Launch) error {
	want := l.Pod.Volume
	labels := map[string]string{
		labelName: podName, labelManagedBy: managedBy, labelInstance: r.cfg.Instance, labelSession: l.Session, labelTenant: l.Tenant,
	}
	if want.Keep {
		labels[labelKeep] = "true"
	}
	spec := coreapply.PersistentVolumeClaimSpec().WithAccessModes(corev1.ReadWriteOnce).WithResources(
		coreapply.VolumeResourceRequirements().WithRequests(corev1.ResourceList{
			corev1.ResourceStorage: *resource.NewQuantity(want.Bytes, resource.BinarySI),
		}))
	if want.StorageClass != "" {
		spec = spec.WithStorageClassName(want.StorageClass)
	}
	r.mu.Lock()
	_, there := r.volumes[l.Session]
	r.mu.Unlock()
	if there {
		return nil // what a volume is cannot be changed, but for its size, which nobody asked for
	}
	claim := &coreapply.PersistentVolumeClaimApplyConfiguration{
		TypeMetaApplyConfiguration: *metaapply.TypeMeta().WithKind("PersistentVolumeClaim").WithAPIVersion("v1"),
	}
	claim = claim.WithName(l.Session).WithNamespace(r.cfg.Namespace).WithLabels(labels).WithSpec(spec)
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := r.shard(l.Session).CoreV1().PersistentVolumeClaims(r.cfg.Namespace).Apply(ctx, claim, metav1.ApplyOptions{FieldManager: managedBy, Force: true})
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, seen := r.volumes[l.Session]; !seen {
		r.volumes[l.Session] = volume{Ref: sessions.Ref{Tenant: l.Tenant, Session: l.Session}, keep: want.Keep, gone: make(chan struct{})}
	}
	return nil
}

// removeVolume removes a session's volume, unless its profile leaves it to somebody else.
func (r *Runtime) removeVolume(ctx context.Context, session string) error {
	r.mu.Lock()
	v, there := r.volumes[session]
	r.mu.Unlock()
	if !there || v.keep {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := r.shard(session).CoreV1().PersistentVolumeClaims(r.cfg.Namespace).Delete(ctx, session, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return api.Errorf(api.CodeUnavailable, "remove the session's volume: %w", err)
	}
	select { // the cluster holds it while a pod may use it
	case <-v.gone:
		return nil
	case <-ctx.Done():
		return api.Errorf(api.CodeUnavailable, "remove the session's volume: it is still in use: %w", ctx.Err())
	}
}

// stripVolume keeps of a volume claim what is read.
func stripVolume(obj any) (any, error) {
	c, ok := obj.(*corev1.PersistentVolumeClaim)
	if !ok {
		return obj, nil
	}
	return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{
		Namespace: c.Namespace, Name: c.Name, UID: c.UID, ResourceVersion: c.ResourceVersion, Labels: c.Labels, DeletionTimestamp: c.DeletionTimestamp,
	}}, nil
}

func (r *Runtime) volumeHandler() cache.ResourceEventHandler {
	observe := func(obj any) {
		c := obj.(*corev1.PersistentVolumeClaim)
		ref := sessions.Ref{Tenant: c.Labels[labelTenant], Session: c.Labels[labelSession]}
		if c.Name != ref.Session || !api.ValidID(api.KindSession, ref.Session) || !api.ValidName(ref.Tenant) {
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		v, seen := r.volumes[ref.Session]
		if !seen {
			v = volume{Ref: ref, gone: make(chan struct{})}
		}
		v.keep = c.Labels[labelKeep] == "true"
		r.volumes[ref.Session] = v
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    observe,
		UpdateFunc: func(_, obj any) { observe(obj) },
		DeleteFunc: func(obj any) {
			if last, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = last.Obj
			}
			if c, ok := obj.(*corev1.PersistentVolumeClaim); ok {
				r.mu.Lock()
				defer r.mu.Unlock()
				if v, seen := r.volumes[c.Name]; seen {
					close(v.gone)
					delete(r.volumes, c.Name)
				}
			}
		},
	}
}
