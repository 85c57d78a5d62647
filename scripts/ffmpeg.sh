# FFmpeg's shared libraries, which py-feat needs and nothing else here does. Installs them where that is allowed.
find='import ctypes.util, sys; sys.exit(ctypes.util.find_library("avutil") is None)'
if "${PYTHON:-python3}" -c "$find"
then
    exit 0
fi
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
        echo "installing FFmpeg's libraries (Debian's package ffmpeg) ..."
        { $as_root apt-get update -qq && $as_root apt-get install -y -qq ffmpeg; } >/dev/null 2>&1 && exit 0
    fi
fi
echo "FFmpeg's libraries are missing and cannot be installed from here: py-feat's action units are skipped, all else works"
exit 0
