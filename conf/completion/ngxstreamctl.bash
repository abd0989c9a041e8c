# bash completion of ngxstreamctl, printed by `ngxstreamctl completion bash`
_ngxstreamctl() {
    local word=${COMP_WORDS[COMP_CWORD]} command="" n
    for ((n = 1; n < COMP_CWORD; n++)); do
        case ${COMP_WORDS[n]} in
            --url|--socket|-c|--config|-p|--prefix|--user|--cacert|--cert|--key) ((n++)) ;;
            -*) ;;
            *) command=${COMP_WORDS[n]}; break ;;
        esac
    done
    local words
    case $command in
        status) words='-h --help' ;;
        servers) words='-h --help' ;;
        upstreams) words='-h --help' ;;
        sessions) words='-h --help --protocol --client --server --upstream --peer --state --min-age --max-age --min-idle --limit tcp udp beginning script preread handshake resolving connecting relaying returning serving' ;;
        kill) words='-h --help --protocol --client --server --upstream --peer --state --min-age --max-age --min-idle --all tcp udp beginning script preread handshake resolving connecting relaying returning serving' ;;
        probe) words='-h --help' ;;
        drain) words='-h --help' ;;
        down) words='-h --help' ;;
        up) words='-h --help' ;;
        weight) words='-h --help' ;;
        add) words='-h --help --weight --max-conns --max-fails --fail-timeout --slow-start --service --backup --down --drain' ;;
        remove) words='-h --help' ;;
        drain-node) words='-h --help --undo' ;;
        healthz) words='-h --help --upstream' ;;
        keyval) words='-h --help --expire list get add set del clear' ;;
        explain) words='-h --help --server-name tcp udp' ;;
        reloads) words='-h --help' ;;
        workers) words='-h --help' ;;
        certificates) words='-h --help' ;;
        log) words='-h --help -f --follow -n --lines --level --contains emerg alert crit error warn notice info debug' ;;
        metrics) words='-h --help' ;;
        top) words='-h --help' ;;
        completion) words='-h --help bash zsh' ;;
        manual) words='-h --help' ;;
        files) words='-h --help' ;;
        "") words='-h --help --version --url --socket -c --config -p --prefix --user --cacert --cert --key --insecure --json status servers upstreams sessions kill probe drain down up weight add remove drain-node healthz keyval explain reloads workers certificates log metrics top completion manual files' ;;
        *) words="" ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}
complete -o default -F _ngxstreamctl ngxstreamctl
