# http.sh - the relay to an HTTP server against libcurl's multi interface.
# shellcheck shell=bash

# It reads a request and answers 204.
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

# CPU time of nginx for a request in that of the bare client: with less than the
# client it is not what limits.
nginx_share()
{
	local requests

	requests=$(bare "$sink_port" 0 1) || exit 1
	awk -v n="$requests" -v client="$(median HTTP bare 2)" '
		{ sub(/.*\) /, ""); printf "%.2f\n", ($12 + $13) * 10000 / n / client }' "/proc/$(<"$run/broker/pid")/stat"
}

row_http()
{
	local sink_program=http_post sink_window=8 sink_counts_itself=1

	begin_sink -lcurl
	nginx_start
	setup_sink setup_http.sql
	compare_throughput HTTP 40000
	verdict 'HTTP: CPU of nginx / bare client' "$(nginx_share)" '<=' 0.9
	compare_latency HTTP
	end_sink
}
