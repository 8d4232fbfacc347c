// flannel-cni does what flannel's network plugin does (github.com/flannel-io/cni-plugin): it reads what flanneld wrote
// about this node and lets the plugins bridge and host-local do the work. It keeps no state of its own.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

const subnetFile = "/run/flannel/subnet.env"

type object = map[string]any

func fail(format string, arguments ...any) {
	text, _ := json.Marshal(object{"cniVersion": "0.3.1", "code": 999, "msg": fmt.Sprintf(format, arguments...)})
	os.Stdout.Write(text)
	os.Exit(1)
}

func environment() (map[string]string, error) {
	text, err := os.ReadFile(subnetFile)
	if err != nil {
		return nil, err
	}
	values := map[string]string{}
	for _, line := range strings.Split(string(text), "\n") {
		if name, value, found := strings.Cut(strings.TrimSpace(line), "="); found {
			values[name] = value
		}
	}
	return values, nil
}

// delegate returns the configuration of plugin bridge; flanneld writes host bits into subnets, host-local refuses them.
func delegate(conf object, values map[string]string) (object, error) {
	result, _ := conf["delegate"].(object)
	if result == nil {
		result = object{}
	}
	ranges, routes := []any{}, []any{}
	for _, prefix := range []string{"FLANNEL", "FLANNEL_IPV6"} {
		if values[prefix+"_SUBNET"] == "" {
			continue
		}
		_, subnet, err := net.ParseCIDR(values[prefix+"_SUBNET"])
		if err != nil {
			return nil, err
		}
		ranges = append(ranges, []any{object{"subnet": subnet.String()}})
		routes = append(routes, object{"dst": values[prefix+"_NETWORK"]})
	}
	mtu, err := strconv.Atoi(values["FLANNEL_MTU"])
	if err != nil {
		return nil, err
	}
	result["name"], result["cniVersion"], result["type"] = conf["name"], conf["cniVersion"], "bridge"
	result["mtu"], result["isGateway"], result["ipMasq"] = mtu, true, values["FLANNEL_IPMASQ"] != "true"
	result["ipam"] = object{"type": "host-local", "ranges": ranges, "routes": routes}
	return result, nil
}

func main() {
	command := os.Getenv("CNI_COMMAND")
	if command == "VERSION" {
		fmt.Println(`{"cniVersion":"0.4.0","supportedVersions":["0.3.0","0.3.1","0.4.0"]}`)
		return
	}
	var conf object
	if err := json.NewDecoder(os.Stdin).Decode(&conf); err != nil {
		fail("failed to parse network configuration: %v", err)
	}
	values, err := environment()
	if err != nil {
		if command == "DEL" {
			return
		}
		fail("loadFlannelSubnetEnv failed: %v", err)
	}
	inner, err := delegate(conf, values)
	if err != nil {
		fail("%s: %v", subnetFile, err)
	}
	input, _ := json.Marshal(inner)
	for _, folder := range filepath.SplitList(os.Getenv("CNI_PATH")) {
		plugin := filepath.Join(folder, "bridge")
		if _, err := os.Stat(plugin); err != nil {
			continue
		}
		child := exec.Command(plugin)
		child.Stdin, child.Stdout, child.Stderr = bytes.NewReader(input), os.Stdout, os.Stderr
		if err := child.Run(); err != nil {
			os.Exit(1)
		}
		return
	}
	fail("failed to find plugin \"bridge\" in path [%s]", os.Getenv("CNI_PATH"))
}
