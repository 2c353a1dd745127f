(function(){
var root=document.documentElement,button=document.getElementById("theme");
function dark(){var set=root.dataset.theme;return set?set==="dark":matchMedia("(prefers-color-scheme: dark)").matches}
function tell(){button.textContent=dark()?"Light":"Dark"}
button.hidden=false;tell();
button.addEventListener("click",function(){root.dataset.theme=dark()?"light":"dark";tell()});
document.querySelectorAll("select[data-blocks]").forEach(function(list){
list.closest("p").hidden=false;
var shown=document.getElementById(list.dataset.blocks).children;
function show(){for(var i=0;i<shown.length;i++)shown[i].hidden=i!==list.selectedIndex}
list.addEventListener("change",show);show()});
})();
