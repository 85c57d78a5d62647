# Installs a Debian package that only some of viper needs, where that is allowed: ffmpeg (its shared libraries are what
# py-feat needs) or chromium (what the tests of pages are run in).
package=$1
case $package in
ffmpeg)
    "${PYTHON:-python3}" -c 'import ctypes.util, sys; sys.exit(ctypes.util.find_library("avutil") is None)' && exit 0
    without="py-feat's action units are skipped" ;;
chromium)
    command -v chromium >/dev/null && exit 0
    without="the tests in a browser are skipped" ;;
esac
if command -v apt-get >/dev/null
then
    if [ "$(id -u)" = 0 ]
    then
        as_root=
    elif sudo -n true 2>/dev/null
    then
        as_root='sudo -n'
    else
        as_root=no
    fi
    if [ "$as_root" != no ]
    then
        echo "installing $package ..."
        { $as_root apt-get update -qq && $as_root apt-get install -y -qq "$package"; } >/dev/null 2>&1 && exit 0
    fi
fi
echo "$package is missing and cannot be installed from here: $without, all else works"
exit 0
