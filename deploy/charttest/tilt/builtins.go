package tilt

import (
	"fmt"
	"os"
	"path/filepath"

	"go.starlark.net/starlark"
)

// recorded are the functions that ask Tilt to do something, with their documented parameters.
var recorded = map[string]string{
	"allow_k8s_contexts": "contexts:string|texts",
	"default_registry":   "registry:string host_from_cluster:string? single_name:string?",
	"docker_build": `ref:string context:string build_args:dict? dockerfile:string? dockerfile_contents:string|blob? live_update:list? match_in_env_vars:bool?
		ignore:string|texts? only:string|texts? entrypoint:string|texts? target:string? ssh:string|texts? network:string? secret:string|texts? extra_tag:string|texts?
		container_args:texts? cache_from:string|texts? pull:bool? platform:string?`,
	"docker_prune_settings": "disable:bool? max_age_mins:int? num_builds:int? interval_hrs:int? keep_recent:int?",
	"k8s_resource": `workload:string? new_name:string? port_forwards:string|int|texts|port_forward? extra_pod_selectors:dict|list? trigger_mode:trigger_mode?
		resource_deps:texts? objects:texts? auto_init:bool? pod_readiness:string? links:string|texts|link? labels:string|texts? discovery_strategy:string?`,
	"k8s_yaml": "yaml:string|texts|blob allow_duplicates:bool?",
	"local_resource": `name:string cmd:string|texts? deps:string|texts? trigger_mode:trigger_mode? resource_deps:texts? ignore:string|texts? auto_init:bool?
		serve_cmd:string|texts? cmd_bat:string|texts? serve_cmd_bat:string|texts? allow_parallel:bool? links:string|texts|link? tags:texts? env:dict? serve_env:dict?
		readiness_probe:probe? dir:string? serve_dir:string? labels:string|texts?`,
	"update_settings":  "max_parallel_updates:int? k8s_upsert_timeout_secs:int? suppress_unused_image_warnings:string|texts?",
	"version_settings": "check_updates:bool? constraint:string?",
	"watch_file":       "file_path:string",
}

// made are the functions whose result is given to another.
var made = map[string]string{
	"sync":              "local_path:string remote_path:string",
	"run":               "cmd:string|texts trigger:string|texts? echo_off:bool?",
	"restart_container": "",
	"fall_back_on":      "files:string|texts",
	"link":              "url:string name:string?",
	"port_forward":      "local_port:int container_port:int? name:string? link_path:string? host:string?",
	"probe":             "initial_delay_secs:int? timeout_secs:int? period_secs:int? success_threshold:int? failure_threshold:int? exec? http_get? tcp_socket?",
}

func (f *File) builtins() starlark.StringDict {
	b := starlark.StringDict{
		"TRIGGER_MODE_AUTO":   &result{Call{Function: "trigger_mode"}},
		"TRIGGER_MODE_MANUAL": &result{Call{Function: "trigger_mode"}},
	}
	for name, params := range recorded {
		b[name] = f.builtin(name, true, signature(params), nil)
	}
	for name, params := range made {
		b[name] = f.builtin(name, false, signature(params), func(c Call) (starlark.Value, error) { return &result{c}, nil })
	}
	b["blob"] = f.builtin("blob", false, signature("contents:string"), func(c Call) (starlark.Value, error) {
		return blob(c.Text("contents")), nil
	})
	b["fail"] = f.builtin("fail", false, signature("msg:string"), func(c Call) (starlark.Value, error) { return nil, fmt.Errorf("%s", c.Text("msg")) })
	b["warn"] = f.builtin("warn", false, signature("msg:string"), nil)
	b["k8s_context"] = f.builtin("k8s_context", false, nil, func(Call) (starlark.Value, error) { return starlark.String("kind-kind"), nil })
	b["k8s_namespace"] = f.builtin("k8s_namespace", false, nil, func(Call) (starlark.Value, error) { return starlark.String("default"), nil })
	b["read_file"] = f.builtin("read_file", false, signature("file_path:string default:string?"), func(c Call) (starlark.Value, error) {
		data, err := os.ReadFile(filepath.Join(f.dir, c.Text("file_path")))
		if def, ok := starlark.AsString(c.Args["default"]); ok && os.IsNotExist(err) {
			data, err = []byte(def), nil
		}
		return blob(data), err
	})
	const helm = "pathToChartDir:string name:string? namespace:string? values:string|texts? set:string|texts? kube_version:string? skip_crds:bool?"
	b["helm"] = f.builtin("helm", true, signature(helm), func(c Call) (starlark.Value, error) {
		text, err := f.helm(c)
		return blob(text), err
	})
	b["config"] = f.configModule()
	b["os"] = module("os", starlark.StringDict{
		"getcwd": f.builtin("os.getcwd", false, nil, func(Call) (starlark.Value, error) { return starlark.String(f.dir), nil }),
		"getenv": f.builtin("os.getenv", false, signature("key:string default?"), func(c Call) (starlark.Value, error) {
			if v := c.Args["default"]; v != nil {
				return v, nil // a test's environment decides nothing
			}
			return starlark.None, nil
		}),
	})
	return b
}

// configModule is Tilt's config: what a Tiltfile takes from the command line must be defined before it is parsed.
func (f *File) configModule() starlark.Value {
	defined := map[string]string{}
	define := func(kind string) *starlark.Builtin {
		return f.builtin("config.define_"+kind, false, signature("name:string args:bool? usage:string?"), func(c Call) (starlark.Value, error) {
			defined[c.Text("name")] = kind
			return starlark.None, nil
		})
	}
	return module("config", starlark.StringDict{
		"define_string":      define("string"),
		"define_string_list": define("string_list"),
		"define_bool":        define("bool"),
		"parse": f.builtin("config.parse", false, nil, func(Call) (starlark.Value, error) {
			parsed := starlark.NewDict(len(f.config))
			for name, value := range f.config {
				if defined[name] == "" {
					return nil, fmt.Errorf("unknown flag: --%s", name)
				}
				if err := parsed.SetKey(starlark.String(name), value); err != nil {
					return nil, err
				}
			}
			return parsed, nil
		}),
		"set_enabled_resources":   f.builtin("config.set_enabled_resources", true, signature("resources:texts"), nil),
		"clear_enabled_resources": f.builtin("config.clear_enabled_resources", true, nil, nil),
	})
}
