package container

import "maps"

// labelByPods gives containers the labels of their pods. What people write into a pod's metadata is in containerd
// on its sandbox alone: of a container kubelet only says which pod's it is, and what it is called
// (newContainerLabels in its kuberuntime).
func labelByPods(all []Container) {
	pods := make(map[string]map[string]string) // by their UID
	for _, c := range all {
		if uid := c.Labels[labelPodUID]; uid != "" && c.sandbox() {
			pods[uid] = c.Labels
		}
	}
	for i := range all {
		if uid := all[i].Labels[labelPodUID]; pods[uid] != nil && !all[i].sandbox() {
			all[i].add(pods[uid])
		}
	}
}

// add adds labels; the container's own win.
func (c *Container) add(labels map[string]string) {
	both := maps.Clone(labels)
	if both == nil {
		both = make(map[string]string, len(c.Labels))
	}
	maps.Copy(both, c.Labels)
	c.Labels = both
}
