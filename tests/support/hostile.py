"""Text that would act if it were taken for markup."""

HOSTILE = (
    "</script><script>window.hacked=1</script><img src=x onerror='window.hacked=1'>&\u2028<!--"
)
