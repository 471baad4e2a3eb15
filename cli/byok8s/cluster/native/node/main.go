// Command byok8s-node is every part of a single-node Kubernetes in one binary:
// the first argument (or the name it is called by) picks the component, the rest are that
// component's own arguments. The components are upstream's; nothing of them is changed.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

var commands = map[string]func() *cobra.Command{
	"kube-apiserver":          apiserver.NewAPIServerCommand,
	"kube-controller-manager": controllermanager.NewControllerManagerCommand,
	"kube-proxy":              proxy.NewProxyCommand,
	// The scheduler's constructor takes plugin options, of which there are none here.
	"kube-scheduler": func() *cobra.Command { return scheduler.NewSchedulerCommand() },
	// The kubelet sets up its own signal context, and panics when it is set up twice.
	"kubelet": func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) },
	"kubectl": kubectl.NewDefaultKubectlCommand,
}

func main() {
	component, args := pick(os.Args)
	os.Args = args
	switch {
	case component == "etcd":
		etcdmain.Main(args)
	case component == "pki":
		exitOn(makePKI(args[1:]))
	case commands[component] != nil:
		os.Exit(cli.Run(commands[component]()))
	default:
		exitOn(fmt.Errorf("unknown component %q: one of %s", component, known()))
	}
}

// pick returns the component and its arguments as os.Args would hold them, both for
// `byok8s-node kubectl get pods` and for a link named `kubectl`.
func pick(args []string) (string, []string) {
	name := filepath.Base(args[0])
	if name == "etcd" || name == "pki" || commands[name] != nil || len(args) < 2 {
		return name, args
	}
	return args[1], args[1:]
}

func known() string {
	names := []string{"etcd", "pki"}
	for name := range commands {
		names = append(names, name)
	}
	sort.Strings(names)
	return strings.Join(names, ", ")
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
