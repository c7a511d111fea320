package containerbox

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// ImageName is the image's name in the box.
const ImageName = "sluice.test/agent:latest"

// Agent is the user and the group that the image has for an agent.
const Agent = 10000

// File is a file of the image.
type File struct {
	Body []byte
	Mode int64  // 0 = 0644
	UID  int    // the group is the same number
	Link string // not "": it is a symbolic link to this, and has no body
}

// The media types of an OCI image, from its specification.
const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar"
)

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// image packs a layer as an image: an OCI layout that `docker load` takes too.
func image(layer []byte) ([]byte, error) {
	blobs := make(map[string][]byte)
	add := func(kind string, body []byte) descriptor {
		sum := sha256.Sum256(body)
		blobs["blobs/sha256/"+hex.EncodeToString(sum[:])] = body
		return descriptor{MediaType: kind, Digest: "sha256:" + hex.EncodeToString(sum[:]), Size: len(body)}
	}
	inLayer := add(typeLayer, layer)
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Env": environment(), "Cmd": waiting()},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{inLayer.Digest}},
	})
	if err != nil {
		return nil, err
	}
	inConfig := add(typeConfig, config)
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": typeManifest, "config": inConfig, "layers": []descriptor{inLayer},
	})
	if err != nil {
		return nil, err
	}
	inManifest := add(typeManifest, manifest)
	inManifest.Annotations = map[string]string{"io.containerd.image.name": ImageName}
	if blobs["index.json"], err = json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": typeIndex, "manifests": []descriptor{inManifest},
	}); err != nil {
		return nil, err
	}
	blobs["oci-layout"] = []byte(`{"imageLayoutVersion":"1.0.0"}`)
	path := func(d descriptor) string { return strings.Replace("blobs/"+d.Digest, ":", "/", 1) }
	if blobs["manifest.json"], err = json.Marshal([]any{map[string]any{
		"Config": path(inConfig), "RepoTags": []string{ImageName}, "Layers": []string{path(inLayer)},
	}}); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for name, body := range blobs {
		if err := put(w, name, File{Body: body}); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), w.Close()
}

// layer is the root file system: busybox, a few files that programs look for,
// and what the test adds.
func layer(files map[string]File) ([]byte, error) {
	shell, applets, err := busybox()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, dir := range []struct {
		name string
		mode int64
		uid  int
	}{
		{"bin", 0o755, 0},
		{"dev", 0o755, 0},
		{"etc", 0o755, 0},
		{"home", 0o755, 0},
		{"home/agent", 0o700, Agent},
		{"proc", 0o755, 0},
		{"root", 0o700, 0},
		{"run", 0o755, 0},
		{"sys", 0o755, 0},
		{"tmp", 0o1777, 0},
		{"usr/bin", 0o755, 0},
		{"var/tmp", 0o1777, 0},
	} {
		if err := w.WriteHeader(&tar.Header{
			Typeflag: tar.TypeDir, Name: dir.name + "/", Mode: dir.mode, Uid: dir.uid, Gid: dir.uid,
		}); err != nil {
			return nil, err
		}
	}
	all := map[string]File{
		"bin/busybox": {Body: shell, Mode: 0o755},
		"etc/group":   {Body: fmt.Appendf(nil, "root:x:0:\nagent:x:%d:\n", Agent)},
		"etc/hosts":   {Body: []byte("127.0.0.1 localhost\n")},
		"etc/passwd":  {Body: fmt.Appendf(nil, "root:x:0:0::/root:/bin/sh\nagent:x:%d:%d::/home/agent:/bin/sh\n", Agent, Agent)},
	}
	for name, f := range files {
		all[strings.TrimPrefix(name, "/")] = f
	}
	for name, f := range all {
		if err := put(w, name, f); err != nil {
			return nil, err
		}
	}
	for _, name := range applets {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + name, Linkname: "busybox"}); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), w.Close()
}

func put(w *tar.Writer, name string, f File) error {
	if f.Mode == 0 {
		f.Mode = 0o644
	}
	if f.Link != "" {
		return w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: f.Link, Mode: 0o777, Uid: f.UID, Gid: f.UID})
	}
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: f.Mode, Uid: f.UID, Gid: f.UID, Size: int64(len(f.Body))}
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	_, err := w.Write(f.Body)
	return err
}

// busybox is the machine's, which has to be the static one, and what it can do.
func busybox() (body []byte, applets []string, err error) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return nil, nil, fmt.Errorf("busybox-static is needed, scripts/deps.sh installs it: %w", err)
	}
	f, err := elf.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return nil, nil, fmt.Errorf("%s needs libraries, which the image has not: install busybox-static", path)
		}
	}
	list, err := exec.Command(path, "--list").Output()
	if err != nil {
		return nil, nil, fmt.Errorf("busybox --list: %w", err)
	}
	body, err = os.ReadFile(path)
	for _, name := range strings.Fields(string(list)) {
		if name != "busybox" {
			applets = append(applets, name)
		}
	}
	return body, applets, err
}

// compile builds a command of this module as a static executable.
func compile(dir, pkg string) ([]byte, error) {
	out := filepath.Join(dir, "program")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if said, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("go build %s: %w: %s", pkg, err, said)
	}
	return os.ReadFile(out)
}

func environment() []string { return []string{"PATH=/usr/bin:/bin", "HOME=/root"} }
