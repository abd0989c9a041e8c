# bash completion of ngxstream
_ngxstream() {
    local word=${COMP_WORDS[COMP_CWORD]}
    case ${COMP_WORDS[COMP_CWORD - 1]} in
        -s) COMPREPLY=($(compgen -W "stop quit reopen reload" -- "$word")) ;;
        -p) COMPREPLY=($(compgen -d -- "$word")) ;;
        -c | -e) COMPREPLY=($(compgen -f -- "$word")) ;;
        -g) COMPREPLY=() ;;
        *) COMPREPLY=($(compgen -W "-h -v -V -t -T -q -N -s -p -e -c -g" -- "$word")) ;;
    esac
}
complete -o filenames -F _ngxstream ngxstream
