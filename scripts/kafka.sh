# shellcheck shell=bash
#
# kafka.sh
#	Apache Kafka for tests: the jars that test/kafka/pom.xml names, from Maven
#	Central or whatever Maven is set up to have in its place, kept in the cache.
#	Sourced after setup.sh.
#
#	Sets kafka, the directory with the jars, empty if they cannot be had: the
#	tests that need them are skipped then.

get_kafka()
{
	local sums=${root:?}/test/kafka/SHA256SUMS cache plugin version
	plugin=org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies
	version=$(sha256sum "$sums" | cut -c1-12)
	cache=$(cache_directory)
	kafka=$cache/kafka-$version

	if (cd "$kafka" 2>/dev/null && sha256sum --quiet --strict -c "$sums" >/dev/null 2>&1); then
		return
	fi
	command -v mvn >/dev/null || (install_packages maven) || true
	step 'Getting Apache Kafka'
	mkdir -p "$cache"
	rm -rf "$kafka" "$kafka.new"
	if timeout 300 mvn -q -B -f "$root/test/kafka/pom.xml" -Dmaven.repo.local="$kafka.new/repository" \
		"$plugin" -DincludeScope=runtime -DoutputDirectory="$kafka.new/jars" >"$kafka.log" 2>&1 &&
		(cd "$kafka.new/jars" && sha256sum --quiet --strict -c "$sums" >>"$kafka.log" 2>&1); then
		mv "$kafka.new/jars" "$kafka"
		chmod -R a+rX "$kafka"
		rm -f "$kafka.log"
	else
		say "        it cannot be had, see $kafka.log: its tests are skipped"
		kafka=
	fi
	rm -rf "$cache/kafka-$version.new"
}
