# http.sh - the relay to an HTTP server against libcurl's multi interface.
# shellcheck shell=bash

# It reads a request and answers 204: what it is capable of is several times what
# one client asks for.
nginx_start()
{
	local nginx=/usr/sbin/nginx place temporary=()

	[[ -x $nginx ]] || die 'nginx is not installed (nginx-light)'
	for place in client_body proxy fastcgi uwsgi scgi; do
		temporary+=("${place}_temp_path $run/broker/$place;")
	done
	cat >"$run/broker/nginx.conf" <<-CONF
		daemon off;
		master_process off;
		pid $run/broker/pid;
		error_log $run/broker/error.log;
		events { worker_connections 200; }
		http {
			access_log off;
			${temporary[*]}
			keepalive_requests 1000000000;
			server {
				listen 127.0.0.1:$sink_port;
				location = /bench { return 204; }
				location = /status { stub_status; }
			}
		}
	CONF
	serve "$nginx" -p "$run/broker" -c "$run/broker/nginx.conf" -e "$run/broker/start.log"
	await_broker
}

row_http()
{
	local sink_program=http_post sink_port=7686 sink_window=8 sink_counts_itself=1

	begin_sink -lcurl
	nginx_start
	setup_sink setup_http.sql
	compare_throughput HTTP 40000
	compare_latency HTTP
	end_sink
}
