package bpf

// The compiler comes from the environment (BPF2GO_CC, BPF2GO_STRIP): make generate sets the one
// that the committed objects were made with.
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cflags "-O2 -g -Wall -Wextra -Werror -nostdinc -mcpu=v2" -target bpfel,bpfeb -go-package bpf -no-global-types -type flow_key -type flow -type listener -type event -type counter -type flow_tally redirect redirect.c
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cflags "-O2 -g -Wall -Wextra -Werror -nostdinc -mcpu=v2" -target bpfel,bpfeb -go-package bpf -no-global-types -type place vigil vigil.c
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cflags "-O2 -g -Wall -Wextra -Werror -nostdinc -mcpu=v2" -target bpfel,bpfeb -go-package bpf -no-global-types families families.c
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cflags "-O2 -g -Wall -Wextra -Werror -nostdinc -mcpu=v2" -target bpfel,bpfeb -go-package bpf -no-global-types -type level_set guard guard.c
