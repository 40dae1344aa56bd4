"""Fail if a package of this environment has a known security hole; say so where that can't be found out."""

import json
import subprocess
import sys


def main() -> None:
    """Ask pip-audit about the environment that runs this."""
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "--timeout", "15"]
    audit = subprocess.run(command, capture_output=True, text=True)
    try:
        packages = json.loads(audit.stdout)["dependencies"]
    except (ValueError, KeyError):
        why = (audit.stderr.strip().splitlines() or ["it says nothing"])[-1]
        if "No module named" in why:
            sys.exit(f"audit: {why}")
        print(f"audit: NOT DONE, the vulnerability service can't be reached ({why})")
        return
    holes = [(package, hole) for package in packages for hole in package.get("vulns", [])]
    for package, hole in holes:
        mended = ", ".join(hole["fix_versions"]) or "no version yet"
        print(f"audit: {package['name']} {package['version']} has {hole['id']}, mended in {mended}")
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    if unknown:
        print(f"audit: NOT DONE for {len(unknown)} of {len(packages)} packages, which the service does not tell of")
    if holes:
        sys.exit(1)
    print(f"audit: {len(packages) - len(unknown)} packages without a known hole")


if __name__ == "__main__":
    main()
