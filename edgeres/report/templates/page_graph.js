(function(){
function made(name,values,text){
var element=document.createElementNS("http://www.w3.org/2000/svg",name);
for(var key in values)element.setAttribute(key,values[key]);
if(text!==undefined)element.textContent=text;
return element}
function draw(block){
var places=block[2].map(function(box){return[box[3]*105+5,box[4]*50+5]});
var height=35+Math.max.apply(null,places.map(function(place){return place[1]}));
var svg=made("svg",{"class":"graph",viewBox:"0 0 370 "+height,width:370,height:height,role:"img","aria-label":block[1]});
block[3].forEach(function(line){
var x=places[line[0]][0]+75,y=places[line[0]][1]+30,u=places[line[1]][0]+75,v=places[line[1]][1],bend=(y+v)/2;
svg.append(made("path",{"class":"edge",d:"M"+x+","+y+"C"+x+","+bend+" "+u+","+bend+" "+u+","+v}))});
block[2].forEach(function(box,number){
var group=made("g",{"class":box[2]}),x=places[number][0],y=places[number][1];
group.append(made("title",{},box[1]),made("rect",{x:x,y:y,width:150,height:30,rx:5}),made("text",{x:x+75,y:y+20},box[0]));
svg.append(group)});
return svg}
document.querySelectorAll(".blocks").forEach(function(part){
var blocks=JSON.parse(part.querySelector("script").textContent);
var list=part.querySelector("select"),search=part.querySelector("input"),told=part.querySelector("output");
var strip=part.querySelector(".strip"),words=part.querySelector(".words"),picture=part.querySelector(".picture");
blocks.forEach(function(block,number){
list.add(new Option(block[0]));
var cell=document.createElement("i");
cell.className=block[2].some(function(box){return box[2]==="float"})?"float":"int8";
cell.title=block[1];
cell.addEventListener("click",function(){list.selectedIndex=number;show()});
strip.append(cell)});
function show(){
var block=blocks[list.selectedIndex],text=search.value.trim().toLowerCase(),found=0;
words.textContent=block[1];
picture.replaceChildren(draw(block));
picture.querySelectorAll("g").forEach(function(group){
if(text&&group.firstChild.textContent.toLowerCase().includes(text)){group.classList.add("found");found++}});
for(var i=0;i<blocks.length;i++)strip.children[i].classList.toggle("here",i===list.selectedIndex);
told.textContent=text?found+" of "+block[2].length+" nodes":""}
search.addEventListener("input",function(){
var text=search.value.trim().toLowerCase();
function has(block){return block[2].some(function(box){return box[1].toLowerCase().includes(text)})}
if(text&&!has(blocks[list.selectedIndex])){var first=blocks.findIndex(has);if(first>=0)list.selectedIndex=first}
show()});
part.querySelectorAll("button").forEach(function(button){
button.addEventListener("click",function(){
list.selectedIndex=Math.min(blocks.length-1,Math.max(0,list.selectedIndex+Number(button.value)));show()})});
list.addEventListener("change",show);
part.querySelector(".bar").hidden=false;strip.hidden=false;show()});
})();
