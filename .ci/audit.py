"""Fail if a package of this environment has a known vulnerability; report where that can't be found out."""

import json
import subprocess
import sys


def main() -> None:
    """Run pip-audit on the environment that runs this."""
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "--timeout", "15"]
    audit = subprocess.run(command, capture_output=True, text=True)
    try:
        packages = json.loads(audit.stdout)["dependencies"]
    except (ValueError, KeyError):
        reason = (audit.stderr.strip().splitlines() or ["no message"])[-1]
        if "No module named" in reason:
            sys.exit(f"audit: {reason}")
        print(f"audit: NOT DONE, the vulnerability service can't be reached ({reason})")
        return
    vulnerabilities = [(package, vulnerability) for package in packages for vulnerability in package.get("vulns", [])]
    for package, vulnerability in vulnerabilities:
        fixed_in = ", ".join(vulnerability["fix_versions"]) or "no version yet"
        print(f"audit: {package['name']} {package['version']} has {vulnerability['id']}, fixed in {fixed_in}")
    num_unknown = sum("skip_reason" in package for package in packages)
    if num_unknown:
        print(f"audit: NOT DONE for {num_unknown} of {len(packages)} packages, which the service does not know")
    if vulnerabilities:
        sys.exit(1)
    print(f"audit: {len(packages) - num_unknown} packages without a known vulnerability")


if __name__ == "__main__":
    main()
